-- Every long park, the longest first: who waited, on what, since when and for how long
SELECT park_id,
       pid,
       tid,
       thread_name,
       kind,
       idle,
       (start_ns - began_ns)::DOUBLE / 1e6 AS start_ms,
       duration_ns::DOUBLE / 1e6 AS duration_ms,
       end_kind AS "end",
       before_attach,
       place,
       coalesce(resource, 'fd ' || fd, syscall) AS waits_for,
       holder,
       coalesce(waker_name, waker) AS waker,
       idle_reason
FROM long_parks, session
ORDER BY duration_ns DESC, park_id
