"""What each call sends and how it reads the answer: generators that do no input or output."""
