"""One picture and one request become a video and a report. Knows no page, no LLM and no queue."""
