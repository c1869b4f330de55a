"""What a video is really like, measured on the file that was written."""
