"""What is done to finished frames: twice the frame rate, a loop, a boomerang. Knows no engine and no file format."""
