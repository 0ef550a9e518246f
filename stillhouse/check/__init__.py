"""`stillhouse check`: what can be known of a recipe before money is spent on it.

`inputs` reads what the recipe names and refuses what cannot work, and `own_filter` a filter of the user's that cannot;
`sample` measures a teacher on a few answers, `estimate` extends them to the whole capture, `judge` holds all of it
against what makes a task worth distilling, and `show` prints it. Who asks the teacher is no business of this package.
"""
