-- Who each long park waited for, and whom that one waited for, to the end of the chain
SELECT park_id,
       0 AS link,
       pid,
       tid,
       thread_name,
       NULL AS how,
       'waits' AS does,
       coalesce(resource, 'fd ' || fd, syscall) AS waits_for,
       place
FROM long_parks
WHERE park_id IN (SELECT park_id FROM chains)
UNION ALL
SELECT c.park_id, c.link, p.pid, c.tid, c.thread_name, c.how, c.does, c.waits_for, c.place
FROM chains AS c LEFT JOIN long_parks AS p ON p.park_id = c.park_id
ORDER BY park_id, link
