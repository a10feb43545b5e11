-- Version 3 to 4: a server on another machine cannot be asked whether it lives; its heartbeat tells.
ALTER TABLE listeners ADD COLUMN heartbeat REAL NOT NULL DEFAULT 0;

-- What waits is found without reading what does not: the state is in the index, so that SQLite prefers it.
DROP INDEX deliveries_unread;
CREATE INDEX deliveries_unread ON deliveries (channel, recipient, state, message)
    WHERE state IN ('queued', 'handed');
UPDATE deliveries SET recalled = 1
WHERE recalled = 0 AND message IN (SELECT id FROM messages WHERE kind <> 'request');
CREATE INDEX deliveries_unanswered ON deliveries (channel, recipient, state, message)
    WHERE state = 'read' AND recalled = 0;
