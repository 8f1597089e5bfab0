"""The browser interface: a person drives the learned environment, with its simulator beside it."""
