"""What users test with: fakes for the ports, the scripted model, the small agent, the Modal emulator."""
