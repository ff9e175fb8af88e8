"""Gates, advantages, loss and diagnostics: tensors and numbers in, tensors and numbers out; no settings object, no model."""
