"""What people type: `invokerctl`, and the parts of `invokerd` beside the daemon."""
