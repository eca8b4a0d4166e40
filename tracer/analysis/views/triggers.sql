-- What triggers set off: by which event and park, and what became of it
SELECT a.ts_ms,
       a.trigger,
       a.action,
       a.status,
       a.count,
       a.why,
       a.fired_by,
       a.park_id,
       a.pid,
       p.tid,
       p.thread_name,
       p.kind,
       p.resource,
       p.place,
       p.parked_ms,
       a.took_ms,
       a.path
FROM acted AS a
LEFT JOIN fired_parks AS p USING (park_id)
ORDER BY a.ts_ms, a.trigger, a.action
