"""The point mass, ICU-Sepsis and offline learning on sepsis-sim against dm_control, icu-sepsis and d3rlpy, see __main__."""
