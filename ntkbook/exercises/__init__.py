"""Exercises that check themselves and name the misconception: one file per chapter, named chapter_NN.

`from ntkbook.exercises import chapter_03`, then `chapter_03.check_erf_ntk(your_function)`.
"""
