"""Teachers: tokens in, logits out. Importing this loads no transformers."""

from logitstore.teachers.array_teacher import ArrayTeacher
from logitstore.teachers.hugging_face import HuggingFaceTeacher, load_teacher
from logitstore.teachers.protocol import Teacher
from logitstore.teachers.teacher_info import TeacherInfo, inspect_teacher
from logitstore.teachers.tokenizer import TeacherTokenizer, hash_tokenizer, load_tokenizer

__all__ = [
    "ArrayTeacher",
    "HuggingFaceTeacher",
    "Teacher",
    "TeacherInfo",
    "TeacherTokenizer",
    "hash_tokenizer",
    "inspect_teacher",
    "load_teacher",
    "load_tokenizer",
]
