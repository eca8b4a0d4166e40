-- Parks by kind: how many, how long, and the short ones that were only counted
WITH
ended AS (
    SELECT k.name AS kind,
           count(*) AS parks,
           sum(duration_ns) AS total_ns,
           quantile_disc(duration_ns, 0.5) AS median_ns,
           quantile_disc(duration_ns, 0.99) AS p99_ns,
           max(duration_ns) AS longest_ns
    FROM parks JOIN park_kinds AS k USING (kind)
    GROUP BY k.name
),
long AS (
    SELECT kind, count(*) FILTER (idle IS NOT TRUE) AS stuck, count(*) FILTER (idle) AS idle
    FROM long_parks GROUP BY kind
),
short AS (SELECT kind, sum(waits) AS waits, sum(total_ns) AS total_ns FROM short_waits GROUP BY kind)
SELECT kind,
       coalesce(parks, 0) AS parks,
       coalesce(stuck, 0) AS long_parks,
       coalesce(idle, 0) AS idle_parks,
       coalesce(ended.total_ns, 0)::DOUBLE / 1e6 AS parked_ms,
       median_ns::DOUBLE / 1e6 AS median_ms,
       p99_ns::DOUBLE / 1e6 AS p99_ms,
       longest_ns::DOUBLE / 1e6 AS longest_ms,
       least(coalesce(waits, 0), 9223372036854775807)::BIGINT AS short_waits,
       coalesce(short.total_ns, 0)::DOUBLE / 1e6 AS short_ms
FROM ended FULL JOIN long USING (kind) FULL JOIN short USING (kind)
ORDER BY parked_ms DESC, kind
