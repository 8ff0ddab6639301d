"""Two runs that differ in their layout alone, held against each other tensor by tensor."""
