"""The MCP door: tools for the model, one tool for the client's hooks, and stdio."""
