-- A token may be made to stand in an address; and who hears of mail is found without reading all who listen.
ALTER TABLE tokens ADD COLUMN in_url INTEGER NOT NULL DEFAULT 0;
CREATE INDEX listeners_client ON listeners (client);
