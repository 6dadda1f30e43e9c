import sys
from pathlib import Path

# Recipes are found by the import hook of a manager that runs in the checkout; tests may run anywhere.
sys.path.append(str(Path(__file__).parents[2]))
