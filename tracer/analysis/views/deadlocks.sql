-- Threads that wait for one another for ever: one row per thread of each deadlock
SELECT deadlock,
       pid,
       knot,
       (since_ns::HUGEINT - began_ns)::DOUBLE / 1e6 AS since_ms,
       (ts_ns::HUGEINT - began_ns)::DOUBLE / 1e6 AS found_ms,
       member,
       tid,
       thread_name,
       waits_for,
       held_by,
       park_id,
       place
FROM cycles, session
ORDER BY deadlock, member
