# The exercise's cell is gone.
# expect: missing_name rest
print("there was a function here")
