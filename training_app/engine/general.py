"""Plain general questions that show what a run has forgotten. Any of the accepted strings in the answer is right."""

QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the capital of France?", ("paris",)),
    ("What is the capital of Italy?", ("rome",)),
    ("How many days are there in a week?", ("7", "seven")),
    ("What colour is the sky on a clear day?", ("blue",)),
    ("Which planet do we live on?", ("earth",)),
    ("Who wrote the play Romeo and Juliet?", ("shakespeare",)),
    ("What is the chemical formula of water?", ("h2o", "h₂o")),
    ("What is the opposite of hot?", ("cold",)),
    ("Which animal is known as man's best friend?", ("dog",)),
    ("What is 2 plus 2?", ("4", "four")),
)
