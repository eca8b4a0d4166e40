-- What each native map did: ranges and how they ended, stale buckets, splits, waits for shards
WITH parked AS (
    SELECT pid, resource_address,
           count(*) AS long_parks,
           max(duration_ns) AS longest_ns,
           arg_max(shard, duration_ns) AS shard,
           arg_max(holder, duration_ns) AS holder,
           arg_max(place, duration_ns) AS place
    FROM long_parks WHERE kind = 'map' GROUP BY pid, resource_address
)
SELECT m.type, m.map AS name, m.pid,
       m.ended_complete + m.ended_stopped + m.ended_stale + m.ended_error + m.ended_unknown AS ranges,
       m.success_rate, m.ended_stale AS stale_ranges, m.ended_error AS errors,
       m.stale AS stale_buckets, m.stale_ratio,
       m.splits, m.retired, m.retries, m.views_opened - m.views_closed AS views_open,
       m.waits, m.parks, m.wait_ns::DOUBLE / 1e6 AS waited_ms,
       coalesce(p.long_parks, 0) AS long_parks,
       p.longest_ns::DOUBLE / 1e6 AS longest_ms,
       p.shard AS longest_shard, p.holder AS held_by, p.place AS longest_at,
       m.partial AS counted_in_part
FROM native_maps AS m
LEFT JOIN parked AS p ON p.pid = m.pid AND p.resource_address = m.address
ORDER BY waited_ms DESC, name, m.address
