-- Second half: what the original knew, in the new tables.
INSERT INTO agents (name, role, owns, last_seen, joined)
SELECT name, COALESCE(role, ''), COALESCE(NULLIF(owns, ''), '[]'), COALESCE(last_seen, 0), COALESCE(last_seen, 0)
FROM original_agents WHERE name IS NOT NULL;

-- Mailboxes for names that were only written to, or only hold a claim.
INSERT INTO agents (name, registered)
SELECT DISTINCT name, 0
FROM (
    SELECT recipient AS name FROM original_messages WHERE recipient NOT IN ('all', 'any')
    UNION SELECT recipient FROM original_deliveries
    UNION SELECT owner FROM original_claims
) AS mentioned
WHERE name IS NOT NULL AND name NOT IN (SELECT name FROM agents);

-- Equal or missing times become strictly increasing, a microsecond apart.
INSERT INTO messages (id, ts, sender, recipient, broadcast, content, reply_to)
SELECT
    id,
    MAX(COALESCE(ts, 0)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) + 0.000001 * ROW_NUMBER() OVER (ORDER BY id),
    COALESCE(sender, ''),
    COALESCE(recipient, 'all'),
    COALESCE(recipient, 'all') IN ('all', 'any'),
    COALESCE(content, ''),
    reply_to
FROM original_messages;

-- The original wrote a receipt for every message it returned. What has none was never
-- returned, even where its cursor moved past it: it is unread.
INSERT INTO deliveries (message, recipient, state, attempts, via, recalled, read_at)
SELECT
    m.id,
    a.name,
    CASE WHEN d.read = 1 THEN 'read' ELSE 'queued' END,
    CASE WHEN d.read = 1 THEN 1 ELSE 0 END,
    CASE WHEN d.read = 1 THEN 'inbox' ELSE '' END,
    1,
    CASE WHEN d.read = 1 THEN d.read_ts END
FROM messages AS m
JOIN agents AS a ON (a.name = m.recipient OR (m.broadcast = 1 AND a.registered = 1)) AND a.name <> m.sender
LEFT JOIN original_deliveries AS d ON d.message_id = m.id AND d.recipient = a.name;

INSERT INTO state (key, value, version, updated_by, updated_at)
SELECT key, COALESCE(value, ''), COALESCE(version, 1), COALESCE(updated_by, ''), COALESCE(ts, 0)
FROM original_state WHERE key IS NOT NULL;

-- The original's paths are relative to folders that it did not note: they hold in every repository. Resources
-- (a name of two characters or more before a colon) and absolute paths are what they were.
WITH resources AS (
    SELECT path FROM original_claims
    WHERE path GLOB '[A-Za-z][A-Za-z0-9_.+-]*:[^/\]*' AND path NOT GLOB '* *'
        AND SUBSTR(path, 1, INSTR(path, ':') - 1) NOT GLOB '*[^A-Za-z0-9_.+-]*'
),
spelled AS (
    SELECT
        path IN (SELECT path FROM resources) AS resource,
        RTRIM(REPLACE(CASE WHEN path GLOB './?*' THEN SUBSTR(path, 3) ELSE path END, '\', '/'), '/') AS one,
        *
    FROM original_claims WHERE path IS NOT NULL AND owner IS NOT NULL
)
INSERT INTO claims (scope, path, owner, created, expires)
SELECT
    CASE WHEN resource OR one GLOB '/*' OR one GLOB '[A-Za-z]:/*' THEN '' ELSE '*' END,
    CASE WHEN resource OR one = '' THEN path ELSE one END,
    owner,
    COALESCE(ts, 0),
    COALESCE(ts, 0) + COALESCE(ttl, 0)
FROM spelled
WHERE true
ORDER BY COALESCE(ts, 0) + COALESCE(ttl, 0) DESC
ON CONFLICT (channel, scope, path, owner, tree) DO NOTHING;

DROP TABLE original_agents;
DROP TABLE original_messages;
DROP TABLE original_deliveries;
DROP TABLE original_state;
DROP TABLE original_claims;
