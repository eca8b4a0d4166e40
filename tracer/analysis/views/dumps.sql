-- Heap dumps taken meanwhile: of which park, how soon after it had crossed, where they are
SELECT a.ts_ms,
       a.path,
       a.pid,
       a.trigger,
       a.park_id,
       p.tid,
       p.thread_name,
       p.kind,
       p.resource,
       p.place,
       p.parked_ms,
       a.freeze_after_crossing_ms,
       a.park_still_on,
       a.engine,
       a.pause_ms,
       a.objects,
       a.bytes
FROM acted AS a
LEFT JOIN fired_parks AS p USING (park_id)
WHERE a.action = 'heap-dump' AND a.status = 'done'
ORDER BY a.ts_ms, a.path
