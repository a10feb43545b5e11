-- A token may be made to stand in an address. Listeners of a client, and agents by a former name, are found
-- without reading all there are.
ALTER TABLE tokens ADD COLUMN in_url INTEGER NOT NULL DEFAULT 0;
CREATE INDEX listeners_client ON listeners (client);
CREATE INDEX agents_formerly ON agents (channel, formerly) WHERE formerly <> '';
