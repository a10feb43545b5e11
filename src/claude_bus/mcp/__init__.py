"""The MCP transport: tools for the model, one tool for the client's hooks, and stdio."""
