-- The original's version 1 to its version 2: state gets versions, agents get globs.
-- Messages of version 1 had one read flag for all readers; they are not kept.
ALTER TABLE state ADD COLUMN version INTEGER DEFAULT 1;
ALTER TABLE agents ADD COLUMN owns TEXT;
ALTER TABLE agents ADD COLUMN last_read_id INTEGER DEFAULT 0;
DROP TABLE messages;
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ts REAL, sender TEXT, recipient TEXT, content TEXT, reply_to INTEGER
);
CREATE TABLE deliveries (
    message_id INTEGER, recipient TEXT, read INTEGER DEFAULT 0, read_ts REAL, PRIMARY KEY (message_id, recipient)
);
CREATE TABLE claims (path TEXT PRIMARY KEY, owner TEXT, ts REAL, ttl REAL);
