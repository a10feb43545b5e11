-- A token may be made to stand in an address. Who hears of mail, and whose name was another, is found without
-- reading all there are.
ALTER TABLE tokens ADD COLUMN in_url INTEGER NOT NULL DEFAULT 0;
CREATE INDEX listeners_client ON listeners (client);
CREATE INDEX agents_formerly ON agents (channel, formerly) WHERE formerly <> '';
