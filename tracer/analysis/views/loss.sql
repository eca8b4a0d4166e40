-- What was lost and where: dropped by the kernel, malformed, missing from the file; zeros included
WITH
kept AS (SELECT kind::BIGINT AS kind, count(*) AS kept FROM records GROUP BY kind),
stages AS (
    SELECT 1 AS stage, 'kernel' AS "where",
           coalesce(name, 'kind ' || coalesce(drops.kind, kept.kind)) AS what,
           coalesce(dropped, 0) AS lost,
           coalesce(kept, 0) AS kept
    FROM drops FULL JOIN kept ON kept.kind = drops.kind
    LEFT JOIN record_kinds AS k ON k.kind = coalesce(drops.kind, kept.kind)
    UNION ALL SELECT 2, 'decode', 'malformed records', coalesce(malformed, 0), NULL FROM session
    UNION ALL SELECT 3, 'trace', what, lost, NULL FROM damage
)
SELECT "where", what, lost, kept FROM stages ORDER BY stage, lost DESC, what
