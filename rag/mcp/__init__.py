"""The Model Context Protocol, by which editors and assistants come in: HTTP (`/mcp`) and stdin (`manage.py mcp`).

`tools` is what can be done, `resources` what can be read, `server` joins both for one caller, `views` is the HTTP side.
"""
