/* chan_test.cpp: to come */
