-- Version 3 to 4: a server on another machine cannot be asked whether it lives; its heartbeat tells.
ALTER TABLE listeners ADD COLUMN heartbeat REAL NOT NULL DEFAULT 0;
