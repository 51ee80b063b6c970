"""Who may call, and how much: API keys and quotas. What routes need and how refusals are told is left to `app.api`."""
