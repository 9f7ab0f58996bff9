"""Does the model repeat its training set?"""
