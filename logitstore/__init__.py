"""logitstore: a teacher-logit cache and sparse knowledge-distillation engine."""
