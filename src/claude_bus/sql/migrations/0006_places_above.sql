-- Version 5 to 6: a claim in a repository that lies in another one is also told as a path of that one.
CREATE TABLE claims_above (
    claim INTEGER NOT NULL REFERENCES claims (id) ON DELETE CASCADE,
    scope TEXT    NOT NULL,                    -- a repository above the claim's own, or "host:" and a machine
    path  TEXT    NOT NULL,
    stem  TEXT    NOT NULL,                    -- what all its paths begin with, without case
    PRIMARY KEY (claim, scope, path)
) STRICT;
CREATE INDEX claims_above_scope ON claims_above (scope, claim);
