"""What tests of several rooms share: tiny hosts and tasks, the contract's variants, naive twins, page readers."""
