-- Every thread that was seen: how often and how long it was parked, what it allocated
WITH
names AS (
    SELECT pid, tid, any_value(thread_name ORDER BY ts_ns DESC) AS thread_name
    FROM events WHERE pid IS NOT NULL AND tid IS NOT NULL AND thread_name IS NOT NULL
    GROUP BY pid, tid
),
parked AS (
    SELECT pid, tid, count(*) AS parks, sum(duration_ns) AS total_ns, max(duration_ns) AS longest_ns
    FROM parks GROUP BY pid, tid
),
long AS (
    SELECT pid, tid, count(*) FILTER (idle IS NOT TRUE) AS stuck, count(*) FILTER (idle) AS idle
    FROM long_parks GROUP BY pid, tid
),
allocated AS (
    SELECT pid, tid, count(*) AS allocs, sum(size_bytes) AS size_bytes
    FROM large_allocs GROUP BY pid, tid
),
refilled AS (SELECT pid, tid, sum(refills) AS refills FROM pool_refills GROUP BY pid, tid),
seen AS (SELECT DISTINCT pid, tid FROM records WHERE tid > 0)
SELECT pid::BIGINT AS pid,
       tid::BIGINT AS tid,
       thread_name,
       coalesce(parks, 0) AS parks,
       coalesce(total_ns, 0)::DOUBLE / 1e6 AS parked_ms,
       coalesce(longest_ns, 0)::DOUBLE / 1e6 AS longest_ms,
       coalesce(stuck, 0) AS long_parks,
       coalesce(idle, 0) AS idle_parks,
       coalesce(allocs, 0) AS large_allocs,
       least(coalesce(size_bytes, 0), 9223372036854775807)::BIGINT AS large_alloc_bytes,
       least(coalesce(refills, 0), 9223372036854775807)::BIGINT AS pool_refills
FROM seen
FULL JOIN parked USING (pid, tid)
FULL JOIN long USING (pid, tid)
FULL JOIN allocated USING (pid, tid)
FULL JOIN refilled USING (pid, tid)
FULL JOIN names USING (pid, tid)
ORDER BY longest_ms DESC, pid, tid
