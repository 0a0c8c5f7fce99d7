# The exercise's cell is gone.
# expect: missing_name 10
print("there was a function here")
