-- The recording at a glance: what was traced, for how long, what was found, what was lost
WITH
longest AS (
    SELECT * FROM long_parks WHERE idle IS NOT TRUE ORDER BY duration_ns DESC, park_id LIMIT 1
),
facts AS (
    SELECT 10 AS place, 'trace' AS name, state AS value, NULL AS unit FROM session
    UNION ALL SELECT 20, 'backend', backend, NULL FROM session
    UNION ALL SELECT 30, 'targets', targets, NULL FROM session
    UNION ALL
    SELECT 40, 'began', strftime(make_timestamp_ns(began_ns + realtime_offset_ns), '%Y-%m-%d %H:%M:%S UTC'), NULL
    FROM session WHERE realtime_offset_ns IS NOT NULL
    UNION ALL
    SELECT 50, 'duration', printf('%.3f', (ended_ns - began_ns) / 1e9), 's' FROM session
    UNION ALL SELECT 60, 'records', count(*)::VARCHAR, NULL FROM records
    UNION ALL SELECT 61, 'records dropped', coalesce(sum(dropped), 0)::VARCHAR, NULL FROM drops
    UNION ALL SELECT 62, 'records malformed', malformed::VARCHAR, NULL FROM session
    UNION ALL
    SELECT 70, 'threads', count(DISTINCT (pid, tid))::VARCHAR, NULL FROM records WHERE tid > 0
    UNION ALL
    SELECT 80 + k.kind, 'parks: ' || k.name, count(*)::VARCHAR, NULL
    FROM parks JOIN park_kinds AS k USING (kind)
    GROUP BY k.kind, k.name
    UNION ALL
    SELECT 90, 'long parks', count(*)::VARCHAR, NULL FROM long_parks WHERE idle IS NOT TRUE
    UNION ALL
    SELECT 91, 'long parks, still open', count(*)::VARCHAR, NULL
    FROM long_parks WHERE idle IS NOT TRUE AND end_kind = 'open'
    UNION ALL
    SELECT 92, 'long parks, idle by design', count(*)::VARCHAR, NULL FROM long_parks WHERE idle
    UNION ALL SELECT 95, 'deadlocks', count(DISTINCT deadlock)::VARCHAR, NULL FROM cycles
    UNION ALL
    SELECT 96, 'longest park: held by', concat_ws(', ', holder, holder_place), NULL
    FROM longest WHERE holder IS NOT NULL
    UNION ALL SELECT 93, 'longest park', printf('%.3f', duration_ns / 1e6), 'ms' FROM longest
    UNION ALL
    SELECT 94, 'longest park: thread', concat_ws(', ', thread_name, kind, place), NULL FROM longest
    UNION ALL SELECT 100, 'allocations over 4 KiB', count(*)::VARCHAR, NULL FROM large_allocs
    UNION ALL
    SELECT 101, 'allocations over 4 KiB: size', coalesce(sum(size_bytes), 0)::VARCHAR, 'bytes'
    FROM large_allocs
    UNION ALL SELECT 102, 'pool refills', coalesce(sum(refills), 0)::VARCHAR, NULL FROM pool_refills
    UNION ALL
    SELECT 110, 'own CPU time', printf('%.3f', own_cpu_ns / 1e6), 'ms'
    FROM session WHERE own_cpu_ns IS NOT NULL
)
SELECT name, value, unit FROM facts ORDER BY place, name
