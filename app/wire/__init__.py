"""Requests and answers on the wire: uvicorn's protocol with limits, and the way from its parser to the fast path."""
