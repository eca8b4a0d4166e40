-- Tables that several views stand on; made from those of load.py before a view runs.

-- One row per park that crossed the threshold: its events where there are any, its PARKS row else.
CREATE VIEW long_parks AS
WITH
said AS (
    SELECT park_id,
           any_value(pid) AS pid,
           any_value(tid) AS tid,
           any_value(thread_name ORDER BY ts_ns DESC) AS thread_name,
           any_value(kind ORDER BY ts_ns DESC) AS kind,
           any_value(idle ORDER BY ts_ns DESC) AS idle,
           any_value(start_ns ORDER BY ts_ns DESC) AS start_ns,
           any_value(before_attach) AS before_attach,
           any_value(place) AS place,
           any_value(resource ORDER BY ts_ns DESC) AS resource,
           any_value(syscall ORDER BY ts_ns DESC) AS syscall,
           any_value(fd) AS fd,
           any_value(idle_reason) AS idle_reason,
           any_value(resource_type ORDER BY ts_ns DESC) AS resource_type,
           any_value(resource_address ORDER BY ts_ns DESC) AS resource_address,
           any_value(shard ORDER BY ts_ns DESC) AS shard,
           any_value(holder) AS holder,
           any_value(holder_tid) AS holder_tid,
           any_value(holder_how) AS holder_how,
           any_value(holder_does) AS holder_does,
           any_value(holder_place) AS holder_place,
           any_value(waker) AS waker,
           any_value(waker_name) AS waker_name,
           any_value(waker_why) AS waker_why,
           any_value(waker_place) AS waker_place,
           any_value(end_kind) AS end_kind,
           max(duration_ns) FILTER (event = 'park_end') AS duration_ns
    FROM events
    WHERE event IN ('park_long', 'resource_named', 'park_end') AND park_id IS NOT NULL
    GROUP BY park_id
),
ended AS (
    SELECT p.park_id::BIGINT AS park_id,
           any_value(p.pid) AS pid,
           any_value(p.tid) AS tid,
           any_value(k.name) AS kind,
           bool_or(p.idle = 1) AS idle,
           any_value(p.start_ns) AS start_ns,
           max(p.duration_ns) AS duration_ns,
           any_value(e.name) AS end_kind,
           bool_or(p.flags & 2 = 2) AS before_attach
    FROM parks AS p
    JOIN park_kinds AS k ON k.kind = p.kind
    JOIN park_ends AS e ON e.kind = p.end
    WHERE p.park_id > 0
    GROUP BY p.park_id
)
SELECT park_id,
       coalesce(said.pid, ended.pid)::BIGINT AS pid,
       coalesce(said.tid, ended.tid)::BIGINT AS tid,
       thread_name,
       coalesce(said.kind, ended.kind) AS kind,
       coalesce(said.idle, ended.idle, false) AS idle,
       coalesce(said.start_ns, ended.start_ns)::HUGEINT AS start_ns,
       -- one that has not ended has lasted to the end of the recording
       greatest(0, coalesce(said.duration_ns, ended.duration_ns,
                            ended_ns - coalesce(said.start_ns, ended.start_ns)::HUGEINT)) AS duration_ns,
       coalesce(said.end_kind, ended.end_kind, 'open') AS end_kind,
       coalesce(said.before_attach, ended.before_attach) AS before_attach,
       place, resource, syscall, fd, idle_reason,
       resource_type, resource_address, shard, holder, holder_tid, holder_how, holder_does, holder_place,
       waker, waker_name, waker_why, waker_place
FROM said FULL JOIN ended USING (park_id), session;

-- Waits that were too short to be recorded one by one: WAIT_HIST records (probes/record.h),
-- wait_class and bucket in the halves of word0, count in word1, total_ns in word2.
CREATE VIEW short_waits AS
SELECT CASE word0 & 4294967295 WHEN 1 THEN 'lock' WHEN 2 THEN 'gil' WHEN 3 THEN 'map' ELSE 'other' END AS kind,
       least(word0 >> 32, 63)::INTEGER AS bucket,
       word1::HUGEINT AS waits,
       word2::HUGEINT AS total_ns
FROM records WHERE kind = 11
UNION ALL
-- … and MAP_COUNT records of counter 3 (waits for a shard): counter in the low byte of word4,
-- bucket in its fourth, count in word1, total_ns in word2.
SELECT 'map', least(word4 >> 24 & 255, 63)::INTEGER, word1::HUGEINT, word2::HUGEINT
FROM records WHERE kind = 15 AND word4 & 255 = 3;

-- LARGE_ALLOC records: size_bytes in word0.
CREATE VIEW large_allocs AS
SELECT ts_ns, pid, tid, word0 AS size_bytes FROM records WHERE kind = 10;

-- POOL_REFILL records: the pool's block size in the low half of word0, count in word1.
CREATE VIEW pool_refills AS
SELECT pid, tid, (word0 & 4294967295)::BIGINT AS size_bytes, word1::HUGEINT AS refills
FROM records WHERE kind = 12;

-- What triggers did: one row per action event, times since the begin of the trace.
CREATE VIEW acted AS
SELECT (ts_ns::HUGEINT - began_ns)::DOUBLE / 1e6 AS ts_ms,
       took_ns::DOUBLE / 1e6 AS took_ms,
       freeze_after_crossing_ns::DOUBLE / 1e6 AS freeze_after_crossing_ms,
       pause_ns::DOUBLE / 1e6 AS pause_ms,
       * EXCLUDE (ts_ns, took_ns, freeze_after_crossing_ns, pause_ns)
FROM actions, (SELECT began_ns FROM session);

-- The parks that set something off, or might have.
CREATE VIEW fired_parks AS
SELECT park_id, tid, thread_name, kind, resource, place,
       duration_ns::DOUBLE / 1e6 AS parked_ms
FROM long_parks;
