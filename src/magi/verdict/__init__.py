"""What a run means: from what happened to a verb's Result, or to the sentence that says what went wrong. Pure."""
