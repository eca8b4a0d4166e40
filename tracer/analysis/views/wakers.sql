-- Who ended long parks: threads, timers, signals, other processes
SELECT coalesce(waker_why, 'unknown') AS why,
       coalesce(waker_name, waker) AS waker,
       kind,
       count(*) AS parks,
       count(DISTINCT (pid, tid)) AS threads,
       max(duration_ns)::DOUBLE / 1e6 AS longest_ms,
       arg_max(waker_place, duration_ns) AS place
FROM long_parks
WHERE end_kind <> 'open'
GROUP BY why, coalesce(waker_name, waker), kind
ORDER BY parks DESC, why, waker, kind
