-- A reader's messages are found without reading those of others. Which messages can be searched by which table
-- "search_<first>" is kept here; servers make and fill those tables later, a little at a time.
CREATE INDEX messages_sender ON messages (sender_channel, sender);
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
