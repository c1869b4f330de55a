"""The studio for programs: videos over HTTP, in the wire format that video servers share."""
