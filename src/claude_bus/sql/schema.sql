-- The bus, version 8. Times are seconds since the epoch; lists are JSON arrays.
-- Versions 1 and 2 belong to the original claude-bus; see migrations/.

CREATE TABLE agents (
    channel    TEXT    NOT NULL DEFAULT 'default',
    name       TEXT    NOT NULL,
    role       TEXT    NOT NULL DEFAULT '',
    owns       TEXT    NOT NULL DEFAULT '[]',
    registered INTEGER NOT NULL DEFAULT 1,     -- 0: present or written to, never joined
    status     TEXT    NOT NULL DEFAULT 'offline'
               CHECK (status IN ('working', 'idle', 'waiting', 'offline')),
    last_seen  REAL    NOT NULL DEFAULT 0,     -- 0: never
    joined     REAL    NOT NULL DEFAULT 0,
    session_id TEXT    NOT NULL DEFAULT '',    -- the conversation that bore the name last
    formerly   TEXT    NOT NULL DEFAULT '',    -- the name before the last renaming
    cwd        TEXT    NOT NULL DEFAULT '',
    branch     TEXT    NOT NULL DEFAULT '',
    repository TEXT    NOT NULL DEFAULT '',    -- what its globs are relative to
    client     TEXT    NOT NULL DEFAULT '',    -- program and version
    doing      TEXT    NOT NULL DEFAULT '',    -- first words of its last prompt, if it shares them
    PRIMARY KEY (channel, name)
) STRICT;
CREATE INDEX agents_formerly ON agents (channel, formerly) WHERE formerly <> '';

-- Which agent a running session is.
CREATE TABLE bindings (
    client     TEXT PRIMARY KEY,               -- the client's inbox socket, else its process
    session    TEXT    NOT NULL DEFAULT '',    -- of a subagent: the client whose it is
    channel    TEXT    NOT NULL,
    agent      TEXT    NOT NULL,
    session_id TEXT    NOT NULL DEFAULT '',
    prompt_id  TEXT    NOT NULL DEFAULT '',    -- of the turn that a hook reported last
    host       TEXT    NOT NULL,
    pid        INTEGER NOT NULL,               -- of the client, not of its bus server
    started    REAL    NOT NULL,
    heartbeat  REAL    NOT NULL,
    bell       INTEGER NOT NULL DEFAULT 0,     -- 1: can be woken when idle
    rung_upto  INTEGER NOT NULL DEFAULT 0,     -- newest message a ring was for
    rung_at    REAL    NOT NULL DEFAULT 0,
    rings      INTEGER NOT NULL DEFAULT 0,
    hooked     INTEGER NOT NULL DEFAULT 1,     -- 0: no hooks bring its mail, it reads with inbox
    woken_by_sessions REAL NOT NULL DEFAULT 0, -- until when its budget of wakes is spent, see rules.wake_wait
    woken_by_programs REAL NOT NULL DEFAULT 0,
    introduced INTEGER NOT NULL DEFAULT 0,     -- 1: the conversation was told who it is
    told       TEXT    NOT NULL DEFAULT '[]',  -- the roster it was told last
    overlaps   TEXT    NOT NULL DEFAULT '[]',  -- the overlaps it was told
    FOREIGN KEY (channel, agent) REFERENCES agents (channel, name) ON UPDATE CASCADE
) STRICT;
CREATE INDEX bindings_agent ON bindings (channel, agent);

-- Processes to tell when mail was stored: for one client, for a name (see listeners.mailbox), or (client '') for anybody.
CREATE TABLE listeners (
    address TEXT PRIMARY KEY,                  -- 'udp:127.0.0.1:port:word'
    client  TEXT NOT NULL DEFAULT '',
    host    TEXT    NOT NULL,
    pid     INTEGER NOT NULL,
    started REAL    NOT NULL,
    heartbeat REAL  NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX listeners_client ON listeners (client);

-- Who waits for a state entry to change.
CREATE TABLE watches (
    address TEXT NOT NULL,
    channel TEXT NOT NULL,
    key     TEXT NOT NULL,
    PRIMARY KEY (address, channel, key)
) STRICT;

CREATE TABLE messages (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    ts             REAL NOT NULL UNIQUE,       -- strictly increasing, like the id
    channel        TEXT NOT NULL DEFAULT 'default',
    sender         TEXT NOT NULL,
    sender_channel TEXT NOT NULL DEFAULT 'default',
    recipient      TEXT NOT NULL,              -- as addressed: a name, a list, a glob, 'all'
    broadcast      INTEGER NOT NULL DEFAULT 0, -- 1: kept for those who join later
    content        TEXT NOT NULL,
    kind           TEXT NOT NULL DEFAULT 'message' CHECK (kind IN ('message', 'request', 'fyi')),
    reply_to       INTEGER,
    tags           TEXT NOT NULL DEFAULT '[]',
    urgent         INTEGER NOT NULL DEFAULT 0,
    expires        REAL,
    key            TEXT,
    by_program     INTEGER NOT NULL DEFAULT 0, -- 1: its sender was no running session
    hops           INTEGER NOT NULL DEFAULT 0  -- messages that led to it, one by the other, without work or a user's word
) STRICT;
CREATE UNIQUE INDEX messages_key ON messages (sender_channel, sender, key) WHERE key IS NOT NULL;
CREATE INDEX messages_reply ON messages (reply_to) WHERE reply_to IS NOT NULL;
CREATE INDEX messages_expires ON messages (expires) WHERE expires IS NOT NULL;
CREATE INDEX messages_broadcast ON messages (channel, id) WHERE broadcast = 1;
CREATE INDEX messages_sender ON messages (sender_channel, sender);

-- Which messages can be searched by which table "search_<first>", see sql/search.py. Those tables are made by servers
-- whose SQLite has FTS5; no trigger touches them, so that mail can be sent and deleted without it.
CREATE TABLE search_blocks (
    first   INTEGER PRIMARY KEY,               -- the lowest and the highest id that the table is for
    last    INTEGER NOT NULL,
    low     INTEGER NOT NULL,                  -- messages above this id and up to the next one are in it
    high    INTEGER NOT NULL,
    dropped INTEGER NOT NULL DEFAULT 0         -- 1: too few of its messages are left, there is no table
) STRICT;
CREATE TRIGGER messages_edited AFTER UPDATE OF content ON messages BEGIN
    UPDATE search_blocks SET low = NEW.id WHERE low < NEW.id AND high >= NEW.id;
END;

-- Files that messages name, as they were when sent. Their content stays where it is.
CREATE TABLE attachments (
    message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    number  INTEGER NOT NULL,                  -- in the order they were named
    host    TEXT    NOT NULL,                  -- the machine on which the path is one
    path    TEXT    NOT NULL,
    size    INTEGER NOT NULL,
    sha256  TEXT    NOT NULL,
    PRIMARY KEY (message, number)
) STRICT;

-- One row per message and recipient, from the moment of sending.
CREATE TABLE deliveries (
    message    INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    channel    TEXT    NOT NULL DEFAULT 'default',
    recipient  TEXT    NOT NULL,
    state      TEXT    NOT NULL DEFAULT 'queued'
               CHECK (state IN ('queued', 'handed', 'read', 'acked', 'expired')),
    attempts   INTEGER NOT NULL DEFAULT 0,     -- hand-overs so far
    via        TEXT    NOT NULL DEFAULT '',    -- what the last hand-over went through
    handed_by  TEXT    NOT NULL DEFAULT '',    -- the process that made it: host:pid:started
    recalled   INTEGER NOT NULL DEFAULT 0,     -- 1: it is no request, or was recalled before idling
    retained   INTEGER NOT NULL DEFAULT 0,     -- 1: a broadcast from before its recipient joined, 2: from long before
    handed_at  REAL,
    read_at    REAL,
    acked_at   REAL,
    expired_at REAL,
    PRIMARY KEY (message, channel, recipient),
    FOREIGN KEY (channel, recipient) REFERENCES agents (channel, name) ON UPDATE CASCADE
) STRICT;
-- Their queries repeat these conditions word for word, see mailboxes.UNREAD.
CREATE INDEX deliveries_unread ON deliveries (channel, recipient, state, message)
    WHERE state IN ('queued', 'handed');
CREATE INDEX deliveries_unanswered ON deliveries (channel, recipient, state, message)
    WHERE state = 'read' AND recalled = 0;
CREATE INDEX deliveries_recipient ON deliveries (channel, recipient, message);

CREATE TABLE state (
    channel    TEXT    NOT NULL DEFAULT 'default',
    key        TEXT    NOT NULL,
    value      TEXT    NOT NULL,
    json       INTEGER NOT NULL DEFAULT 0,     -- 1: the value was given as JSON, not as text
    version    INTEGER NOT NULL,
    updated_by TEXT    NOT NULL DEFAULT '',
    updated_at REAL    NOT NULL,
    expires    REAL,
    PRIMARY KEY (channel, key)
) STRICT;

CREATE TABLE state_history (
    channel TEXT    NOT NULL DEFAULT 'default',
    key     TEXT    NOT NULL,
    version INTEGER NOT NULL,
    value   TEXT,                              -- NULL: deleted
    json    INTEGER NOT NULL DEFAULT 0,
    by      TEXT    NOT NULL DEFAULT '',
    at      REAL    NOT NULL,
    PRIMARY KEY (channel, key, version)
) STRICT;

CREATE TABLE claims (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    channel TEXT    NOT NULL DEFAULT 'default',
    scope   TEXT    NOT NULL DEFAULT '',       -- repository the path is relative to; '*': any, from the original
    path    TEXT    NOT NULL,
    stem    TEXT    NOT NULL DEFAULT '',       -- what all its paths begin with, without case
    owner   TEXT    NOT NULL,
    shared  INTEGER NOT NULL DEFAULT 0,
    reason  TEXT    NOT NULL DEFAULT '',
    edit    INTEGER NOT NULL DEFAULT 0,        -- 1: made by an edit, for a few minutes
    tree    TEXT    NOT NULL DEFAULT '',       -- the only working tree it holds in, for one made by an edit
    file    TEXT    NOT NULL DEFAULT '',       -- identity of an existing file, which renaming keeps; or 'folder'
    created REAL    NOT NULL,
    expires REAL    NOT NULL,
    UNIQUE (channel, scope, path, owner, tree),
    FOREIGN KEY (channel, owner) REFERENCES agents (channel, name) ON UPDATE CASCADE
) STRICT;

-- The same place as a path of what its repository lies in: another repository, or the machine.
CREATE TABLE claims_above (
    claim INTEGER NOT NULL REFERENCES claims (id) ON DELETE CASCADE,
    scope TEXT    NOT NULL,                    -- a repository above the claim's own, or "host:" and a machine
    path  TEXT    NOT NULL,
    stem  TEXT    NOT NULL,                    -- what all its paths begin with, without case
    PRIMARY KEY (claim, scope, path)
) STRICT;
CREATE INDEX claims_above_scope ON claims_above (scope, claim);

-- Edits that were refused once because of a claim; repeated in time, they go through.
CREATE TABLE refusals (
    client  TEXT NOT NULL,
    channel TEXT NOT NULL,
    holder  TEXT NOT NULL,
    scope   TEXT NOT NULL,
    path    TEXT NOT NULL,
    at      REAL NOT NULL,
    told    INTEGER NOT NULL DEFAULT 0,        -- 1: it was repeated, and the holder was told
    PRIMARY KEY (client, channel, holder, scope, path)
) STRICT;

-- Tool calls that subagents were about to make.
CREATE TABLE calls (
    client   TEXT NOT NULL,
    call     TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    at       REAL NOT NULL,
    PRIMARY KEY (client, call)
) STRICT;

CREATE TABLE tokens (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    owner    TEXT NOT NULL,                    -- a person or machine
    hash     TEXT NOT NULL UNIQUE,
    names    TEXT NOT NULL DEFAULT '["*"]',
    channels TEXT NOT NULL DEFAULT '["*"]',
    created  REAL NOT NULL,
    expires  REAL,
    revoked  REAL,
    in_url   INTEGER NOT NULL DEFAULT 0        -- 1: may stand in an address, and is for the two wires only
) STRICT;

-- The journal: every verb that changes something appends to it in its own transaction.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    ts      REAL NOT NULL,
    channel TEXT NOT NULL,
    actor   TEXT NOT NULL,
    verb    TEXT NOT NULL,
    subject TEXT NOT NULL DEFAULT '',
    detail  TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX events_sends ON events (channel, actor, ts) WHERE verb = 'send';
