"""Where tasks run. One file is one engine; ``base`` says what each must answer."""
