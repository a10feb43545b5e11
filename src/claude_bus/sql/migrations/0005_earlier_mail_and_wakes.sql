-- Version 4 to 5. A row that an older program adds gets the defaults, which mean what it knew.
-- Broadcasts from before somebody joined come with their age; those from long before wait in the inbox.
ALTER TABLE deliveries ADD COLUMN retained INTEGER NOT NULL DEFAULT 0;
-- A session without hooks reads its mail when it calls inbox.
ALTER TABLE bindings ADD COLUMN hooked INTEGER NOT NULL DEFAULT 1;
-- How often a session is woken has a budget, see rules.wake_wait.
ALTER TABLE messages ADD COLUMN by_program INTEGER NOT NULL DEFAULT 0;
ALTER TABLE bindings ADD COLUMN woken_by_sessions REAL NOT NULL DEFAULT 0;
ALTER TABLE bindings ADD COLUMN woken_by_programs REAL NOT NULL DEFAULT 0;
