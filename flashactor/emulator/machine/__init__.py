"""What the generated code runs on: registers, memories, barriers, and the scheduler."""
