-- The original's version 2 to version 3, first half: its tables make room for schema.sql.
ALTER TABLE agents RENAME TO original_agents;
ALTER TABLE messages RENAME TO original_messages;
ALTER TABLE deliveries RENAME TO original_deliveries;
ALTER TABLE state RENAME TO original_state;
ALTER TABLE claims RENAME TO original_claims;
