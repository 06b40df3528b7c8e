"""What a study is and what it binds; a folder for each, with its inputs and its definition."""
