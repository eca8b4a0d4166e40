-- How long waits were, in powers of two of a nanosecond; the short ones counted in the kernel
WITH
waits AS (
    SELECT k.name AS kind,
           floor(log2(greatest(duration_ns, 1)::DOUBLE))::INTEGER AS bucket,
           count(*)::HUGEINT AS waits
    FROM parks JOIN park_kinds AS k USING (kind)
    GROUP BY ALL
    UNION ALL
    SELECT kind, bucket, waits FROM short_waits
)
SELECT kind,
       pow(2, bucket) / 1e6 AS from_ms,
       pow(2, bucket + 1) / 1e6 AS below_ms,
       least(sum(waits), 9223372036854775807)::BIGINT AS waits
FROM waits
GROUP BY kind, bucket
ORDER BY kind, bucket
